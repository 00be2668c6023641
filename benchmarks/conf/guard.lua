-- Like post.lua, but the caller shows what BENCH_FIELD says ("X-API-Key: …") and no other credential.
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "post.lua")
wrk.headers["Authorization"] = nil
local name, value = os.getenv("BENCH_FIELD"):match("^([^:]+): (.*)$")
wrk.headers[name] = value
