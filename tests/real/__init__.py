"""The software people really run, carried by the daemon: SDK servers and clients, the conformance suite, uvicorn, Node, curl, WebSockets."""
