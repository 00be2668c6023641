-- Like post.lua, but every request shows another token: a line of the file BENCH_TOKENS, from the one after BENCH_FROM on.
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "post.lua")
local from, tokens, count, before, after = tonumber(os.getenv("BENCH_FROM")), {}, 0, nil, nil
for line in io.lines(os.getenv("BENCH_TOKENS")) do
  tokens[#tokens + 1] = line
end

function request()
  if not before then
    wrk.headers["Authorization"] = "Bearer @@@@"
    before, after = wrk.format():match("^(.-)@@@@(.*)$")
  end
  count = count + 1
  return before .. tokens[(from + count) % #tokens + 1] .. after
end
