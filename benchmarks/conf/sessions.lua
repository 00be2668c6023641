-- tools/call within sessions that are open already: BENCH_SESSIONS is a file of their ids (an empty line: no session), taken in turn.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Protocol-Version"] = "2025-06-18"
-- An id is used once: all have seven digits.
local body = '{"jsonrpc":"2.0","id":@@@@@@@,"method":"tools/call","params":{"name":"' .. os.getenv("BENCH_TOOL") .. '","arguments":{"message":"hello hello hello hello"}}}'
local before, after, number, id = {}, {}, 0, 1000000

function init()
  for session in io.lines(os.getenv("BENCH_SESSIONS")) do
    wrk.headers["Mcp-Session-Id"] = session ~= "" and session or nil
    local head, tail = wrk.format(nil, nil, nil, body):match("^(.-)@@@@@@@(.*)$")
    before[#before + 1], after[#after + 1] = head, tail
  end
end

function request()
  number, id = number % #before + 1, id + 1
  return before[number] .. id .. after[number]
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
