"""Runs the command line in forked children: importing lightning takes seconds, and this process pays it once.

Reads one JSON request a line, {"args", "log", "ranks", "nodes", "kill_when": [glob, step], a number of seconds, or
null}; writes the exit codes. The children of one request are a process group of their own, so that a kill takes their
data loaders along.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import socket
import sys
import time
import traceback

import torch

import unsam_lightning.cli  # noqa: F401 - what the children need
from unsam_lightning.__main__ import main


def child(args: list[str], log: str, rank: int, ranks: int, nodes: int, port: int) -> None:
    os.setsid()
    # A shell's background job ignores interrupts, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # After a fork torch makes its thread pool anew where it is first asked for, and two threads that ask at once fail.
    torch.set_num_threads(1)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if ranks > 1:  # as Lightning's own launcher sets them for the processes it starts
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        node, local = divmod(rank, ranks // nodes)
        os.environ |= {"NODE_RANK": str(node), "LOCAL_RANK": str(local)}
    code = 1
    try:
        code = main(args)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(request: dict) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(request["ranks"]):
        pid = os.fork()
        if pid == 0:
            child(request["args"], request["log"], rank, request["ranks"], request["nodes"], port)
        pids.append(pid)
    codes: dict[int, int] = {}
    start = time.monotonic()
    while len(codes) < len(pids):
        time.sleep(0.01)
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        if request["kill_when"] and reached(request["kill_when"], time.monotonic() - start):
            for pid in pids:
                if pid not in codes:
                    os.killpg(pid, request["kill_by"])
            # Python loses an interrupt that comes while it deletes an object or forks; people press the keys again.
            again = time.monotonic() - start + 1.0
            request["kill_when"] = again if request["kill_by"] == signal.SIGINT else None
    return [codes[pid] for pid in pids]


def reached(moment: list | float, seconds: float) -> bool:
    if isinstance(moment, float):
        return seconds >= moment
    pattern, step = moment
    found = glob.glob(pattern)
    return any(torch.load(path, weights_only=True)["global_step"] >= step for path in found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
