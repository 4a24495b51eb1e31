"""What a store in a bucket costs beside one in a folder: `python benchmarks/store.py`.

The bucket is Moto's, on this machine: a request to one elsewhere takes 10 to 50 ms more, so what counts
there are the requests. Times are medians, and ratios within one run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

import torch

from tombola.lab.kinds import Init
from tombola.lab.runs import Network, Outcome
from tombola.lab.store import Store
from tombola.lab.stores import store_at

SERVER = Path(__file__).parents[1] / "tests" / "s3_server.py"
OUTCOME = Outcome({"loss": 0.1}, {"weights": {"a": torch.ones(20, 64), "b": torch.ones(20)}})


def seconds_per_run(store: Store, count: int) -> float:
    """What claiming, saving and giving back one run takes."""
    taken = []
    for number in range(count):
        run = Init(Network("lenet-20-10", (1, 8, 8), 10), "glorot-normal", init_seed=number)
        began = time.perf_counter()
        with store.claim(run) as ours:
            assert ours and not store.has(run)
            store.save(run, OUTCOME, {"seconds": 1.0})
        taken.append(time.perf_counter() - began)
    return median(taken)


def listing_seconds(store: Store) -> float:
    """What listing all keys takes."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        store.keys()
        taken.append(time.perf_counter() - began)
    return median(taken)


def main(count: int) -> None:
    """Print the figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server,
    ):
        assert server.stdout
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "TOMBOLA_CACHE": f"{folder}/cache"}
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")).close()
        remote, local = store_at("s3://bucket/prefix").open(), Store(Path(folder, "store")).open()
        each, beside = (seconds_per_run(store, count) for store in (remote, local))
        print(f"a run: {each * 1e3:.1f} ms in the bucket, {beside * 1e3:.1f} ms in a folder")
        print(f"{count} keys listed: {listing_seconds(remote) * 1e3:.0f} ms, {listing_seconds(local) * 1e3:.1f} ms")
        os.environ["TOMBOLA_CACHE"] = f"{folder}/another"
        reader = store_at("s3://bucket/prefix")
        began = time.perf_counter()
        reader.ahead(reader.keys())
        print(f"{count} outcomes fetched, {(time.perf_counter() - began) / count * 1e3:.1f} ms each")
        server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    main(parser.parse_args().count)
