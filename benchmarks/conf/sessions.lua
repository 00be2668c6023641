-- tools/call within sessions that are open already: BENCH_SESSIONS is a file of their ids (an empty line: no session), taken in turn.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Protocol-Version"] = "2025-06-18"
local body = '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"' .. os.getenv("BENCH_TOOL") .. '","arguments":{"message":"hello hello hello hello"}}}'
local requests, number = {}, 0

function init()
  for id in io.lines(os.getenv("BENCH_SESSIONS")) do
    wrk.headers["Mcp-Session-Id"] = id ~= "" and id or nil
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

-- An error of the server is an answer of the protocol with status 200: it must not count as done.
local wrong = 0
function response(status, headers, body)
  if not body:find("hello hello", 1, true) then
    wrong = wrong + 1
    if wrong == 1 then io.write("\nWRONG ", status, " ", body:sub(1, 300), "\n") end
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout, latency:percentile(50), latency:percentile(99)))
end
