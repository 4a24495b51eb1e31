"""What a store in a bucket costs beside one in a folder: `python benchmarks/store.py [--count N] [--write]`.

The bucket is Moto's, on this machine: a request to one elsewhere takes 10 to 50 ms more, so what counts there are the
requests. Times are medians, and bucket and folder take turns. Needs the extra `test`, which has Moto.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

import torch
from section import ROOT, load, load_line, machine, options, publish, table

from tombola.lab.kinds import Init
from tombola.lab.runs import Network, Outcome
from tombola.lab.store import Store
from tombola.lab.stores import store_at

PAGE = ROOT / "results" / "scale.md"
SERVER = ROOT / "tests" / "s3_server.py"
OUTCOME = Outcome({"loss": 0.1}, {"weights": {"a": torch.ones(20, 64), "b": torch.ones(20)}})


def one_run(store: Store, number: int) -> float:
    """Seconds of claiming, saving and giving back one run."""
    run = Init(Network("lenet-20-10", (1, 8, 8), 10), "glorot-normal", init_seed=number)
    began = time.perf_counter()
    with store.claim(run) as ours:
        assert ours and not store.has(run)
        store.save(run, OUTCOME, {"seconds": 1.0})
    return time.perf_counter() - began


def listing_seconds(store: Store) -> float:
    """What listing all keys takes."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        store.keys()
        taken.append(time.perf_counter() - began)
    return median(taken)


def fetching_seconds(store: Store) -> float:
    """What fetching the records of all outcomes takes where none of them is at hand."""
    began = time.perf_counter()
    store.ahead(store.keys())
    return time.perf_counter() - began


def measured(count: int) -> list[list[str]]:
    """The rows of the table: what is done, in the bucket, in a folder."""
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("TOMBOLA_SCRATCH")) as folder,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server,
    ):
        try:
            assert server.stdout
            address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
            os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "TOMBOLA_CACHE": f"{folder}/cache"}
            urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")).close()
            stores = store_at("s3://bucket/prefix").open(), Store(Path(folder, "store")).open()
            taken = [[one_run(store, number) for store in stores] for number in range(count)]
            each, beside = (median(times) * 1e3 for times in zip(*taken, strict=True))
            keys, keys_beside = (listing_seconds(store) * 1e3 for store in stores)
            os.environ["TOMBOLA_CACHE"] = f"{folder}/another"
            fetched = fetching_seconds(store_at("s3://bucket/prefix")) * 1e3 / count
        finally:
            server.kill()
    return [
        ["a run is claimed, stored and given back", f"{each:.1f} ms", f"{beside:.1f} ms"],
        [f"{count:,} keys are listed", f"{keys:.0f} ms", f"{keys_beside:.1f} ms"],
        ["an outcome's records are fetched", f"{fetched:.1f} ms", "-"],
    ]


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--count", type=int, default=300, help="of runs, >= 1")
    given = parser.parse_args(arguments)
    head = f"`python benchmarks/store.py`: {machine()} {load_line(load())}"
    about = (
        "The bucket is Moto's, a server on this machine in one process of Python: what it takes is in each request, "
        "where a real one takes 10 to 50 ms of network. Nothing but the store: no worker and no training."
    )
    columns = table(["", "bucket (`--store s3://...`)", "folder"], measured(given.count))
    publish("store", "A store in a bucket and in a folder", [head, about, columns], given.write, PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
