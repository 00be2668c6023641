"""How fast and how small is it, beside nginx and HAProxy? `python -m benchmarks --help`.

The theory of the measurement:

 1. The figure that survives a noisy machine is CPU time of the proxy process per unit of work (request, event, MiB, handshake). It is read
    from the scheduler's nanosecond clock before and after, so neither the load generator nor a neighbour can lend or steal any of it.
 2. Only ratios of figures taken in the same minute are compared: every round measures each contender in turn, a fresh process each time,
    and the verdict is the median of the per-round ratios.
 3. Same work for all: one upstream, the same forwarded fields, a request id made per request, a JSON access log in a file. Before anything
    is measured each contender has to prove that: its answer is compared byte for byte, the head its upstream saw and its log line are read.
 4. A run with one failed request is not a result, and is refused.
 5. The proxy has core 0 for itself; upstream and load generator share core 1.

It installs nothing. It says what is missing.
"""
