"""How many requests per second `finlab serve` answers, for one client and for sixteen.

python -m benchmarks.serving FOLDER

It writes notebooks/results/serving.json.
"""

from __future__ import annotations

import concurrent.futures
import json
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.tables import write_results
from finlab.run import environment

PORT = 8741
QUESTION = [{"role": "user", "content": "恒信银行是哪一年成立的？"}]
REQUESTS = 64
CLIENTS = (1, 16)


def ask(name: str) -> tuple[float, int]:
    """Return the seconds of a request, and the number of tokens of its answer."""
    body = json.dumps({"model": name, "messages": QUESTION, "max_tokens": 64}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        usage = json.loads(answer.read())["usage"]
    return time.perf_counter() - began, usage["completion_tokens"]


def wait() -> None:
    """Wait until the server answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1)
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not come up")


def measure(name: str, clients: int) -> dict:
    """Return requests and tokens per second for `clients` clients at once."""
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda _: ask(name), range(REQUESTS)))
    seconds = time.perf_counter() - began
    waits = [wait for wait, _ in answers]
    return {
        "clients": clients,
        "requests": REQUESTS,
        "requests_per_second": REQUESTS / seconds,
        "tokens_per_second": sum(tokens for _, tokens in answers) / seconds,
        "median_ms": 1000 * statistics.median(waits),
        "p95_ms": 1000 * statistics.quantiles(waits, n=20)[-1],
    }


def main() -> None:
    """Serve a model folder, send requests, and write what was measured."""
    folder = Path(sys.argv[1])
    command = [sys.executable, "-m", "finlab", "serve", str(folder), "--name", "m"]
    server = subprocess.Popen([*command, "--port", str(PORT)], stdout=subprocess.DEVNULL)
    try:
        wait()
        ask("m")
        rows = [measure("m", clients) for clients in CLIENTS]
    finally:
        server.terminate()
        server.wait()
    record = {
        "command": "python -m benchmarks.serving runs/smoke/dpo/artifact/model",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "rows": rows,
    }
    write_results("serving", record)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
