-- One tools/call as a Python client sends it; at the end one JSON line with what happened.
wrk.method = "POST"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello hello hello hello hello hello hello hello"}}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Session-Id"] = "0f7d3b0d5a6c4e0c9d6b6b3d2f1a0e9c"
wrk.headers["Mcp-Protocol-Version"] = "2025-06-18"
wrk.headers["Authorization"] = "Bearer sk-agent-alpha-0123456789abcdef0123456789abcdef"
wrk.headers["User-Agent"] = "python-httpx/0.28.1"

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout, latency:percentile(50), latency:percentile(99)))
end
