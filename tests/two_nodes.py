"""v7's grid on a cluster of two nodes, both on this machine, of which one is lost in the middle.

    python -m tests.two_nodes

Starts a head and a second node, one core each, as `ray start --head` and `ray start --address` do;
trains small synthetic networks across both, stops the second node while it works, and prints which
node trained what.
"""

import functools
import os
import tempfile
import threading
import time
from pathlib import Path

from config import ConfigV7
from generations.v7 import train_v7_main
from generations.v7.inference import CryptoPricePredictorV7
from pipeline import terminal

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")


def train_and_tell(train_job, folder, name, *args):
    """v7's job, and on which node it ran; it leaves a mark when it begins."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (folder / f"{name}.{node}").touch()
    record = train_job(name, *args)
    terminal.tell(f"{name} was trained on node {node[:8]}")
    return record


def lose(cluster, node, node_id, marks):
    """Stop a node, without a goodbye, as soon as a job is at work on it."""
    while not any(path.suffix == f".{node_id}" for path in marks.iterdir()):
        time.sleep(0.1)
    time.sleep(10.0)
    print(f"\n  node {node_id[:8]} is stopped", flush=True)
    cluster.remove_node(node, allow_graceful=False)


def main():
    """Start both nodes, train, stop them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    print(
        f"head {cluster.head_node.node_id[:8]} and node {second.node_id[:8]} at {cluster.address}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as marks:
        told = functools.partial(train_and_tell, train_v7_main.train_job, Path(marks))
        train_v7_main.train_job = told
        watch = (cluster, second, second.node_id, Path(marks))
        threading.Thread(target=lose, args=watch, daemon=True).start()
        config = ConfigV7(
            source="synthetic",
            symbols=SYMBOLS,
            timeframes=("1h",),
            candles=600,
            epochs=3,
            output_dir=Path(folder),
            lstm_units=(16, 8, 4),
            dense_units=(8, 4),
        )
        try:
            train_v7_main.main(config)
            for path in sorted(Path(marks).iterdir()):
                print(f"  {path.stem} was begun on node {path.suffix[1:9]}")
            for symbol in SYMBOLS:
                CryptoPricePredictorV7.from_directory(folder, symbol=symbol)
            print(f"  all {len(SYMBOLS)} networks are in place")
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
