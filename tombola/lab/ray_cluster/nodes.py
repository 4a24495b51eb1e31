"""What each node has to have: this Tombola, and the store before its eyes."""

import time
from collections.abc import Mapping
from typing import Any

from tombola import __version__
from tombola.errors import BadInput, StoreError, TombolaError
from tombola.lab.attempt import commit
from tombola.lab.ray_cluster.cluster import Cluster
from tombola.lab.store import Store

PROBE_S = 120.0  # a node may have to start a process first, on a machine that is busy
SEEN_S = 20.0  # within which a node has to see what the command has written into the store


def _probe(marker: str, within_s: float) -> Any:
    """A function that a node executes; it travels as it is, since a node may have another Tombola, or none."""

    def facts() -> dict[str, Any]:
        import importlib.metadata
        import platform
        import socket
        from pathlib import Path

        try:
            import tombola

            version = tombola.__version__
        except Exception as error:
            version = f"none ({type(error).__name__}: {error})"
        try:
            from tombola.lab.attempt import commit

            checkout = commit()
        except ImportError:
            checkout = None
        try:
            torch = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            torch = "none"
        until = time.monotonic() + within_s
        while not (seen := Path(marker).exists()) and time.monotonic() < until:
            time.sleep(0.2)
        return {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "tombola": version,
            "commit": checkout,
            "torch": torch,
            "seen": seen,
        }

    return facts


def look_at_nodes(cluster: Cluster, store: Store) -> None:
    """Make sure that every node has this Tombola and sees the store; one that is lost meanwhile does not count.

    Raises:
        BadInput: one has another version, or none.
        StoreError: one does not see the store.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with store.scratch("seen") as marker:
        ask = cluster.ray.remote(_probe(str(marker), SEEN_S if store.is_folder else 0.0))
        asked = {
            ask.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(): node
            for node in cluster.nodes
        }
        for one, node in asked.items():
            address = node["NodeManagerAddress"]
            try:
                facts = cluster.ray.get(one, timeout=PROBE_S)
            except cluster.lost as error:
                if cluster.has_lost(node["NodeID"]):  # which takes Ray some seconds to see
                    continue
                raise TombolaError(
                    f"the node {address} of {cluster.where} does not answer: {' '.join(str(error).split())[:300]}. "
                    "Nothing has been started."
                ) from error
            _judge(facts, f"the node {facts['host']} ({address}) of {cluster.where}", store)


def _judge(facts: Mapping[str, Any], node: str, store: Store) -> None:
    """See what `_probe` has found."""
    if facts["tombola"] != __version__:
        raise BadInput(
            where="--on ray",
            expected=f"Tombola {__version__} on {node}",
            found=facts["tombola"],
            todo=f"pip install tombola=={__version__} there, with the Python that Ray runs with.",
        )
    if facts["commit"] and (ours := commit()) and facts["commit"] != ours:  # two versions in the making
        raise BadInput(
            where="--on ray",
            expected=f"Tombola of commit {ours} on {node}",
            found=facts["commit"],
            todo="Check out the same commit there.",
        )
    if not facts["seen"] and store.is_folder:
        raise StoreError(
            where=str(store.root.absolute()),
            expected=f"a folder that {node} sees, too",
            found="one of this machine alone, or one that is mounted elsewhere there",
            todo="Name one on a file system that all nodes share, by the same path: --store.",
        )
