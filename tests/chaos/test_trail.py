"""The trail of a partition, from lines as workers and Kafka's own tool write them."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.trail import Trace, group_traces, worker_traces

TOPIC = "chaos.exactly_once.images"
BATCH = (
    "baseOffset: 0 lastOffset: 0 count: 1 baseSequence: 0 lastSequence: 0 producerId: {producer} producerEpoch: 0 "
    "partitionLeaderEpoch: 0 isTransactional: true isControl: false deleteHorizonMs: OptionalLong.empty position: 0 "
    "CreateTime: {at_ms} size: 146 magic: 2 compresscodec: none crc: 3467616325 isvalid: true\n"
)
OFFSET = (
    "| offset: 0 CreateTime: 0 keySize: 53 valueSize: 24 sequence: 0 headerKeys: [] "
    'key: {{"type":"1","data":{{"group":"g","topic":"chaos.exactly_once.images","partition":{partition}}}}} '
    'payload: {{"version":"4","data":{{"offset":{offset},"leaderEpoch":-1,"metadata":"","commitTimestamp":0}}}}\n'
)
MARKER = (
    "| offset: 1 CreateTime: 0 keySize: 4 valueSize: 6 sequence: -1 headerKeys: [] endTxnMarker: COMMIT "
    "coordinatorEpoch: 0\n"
)


def test_the_workers_lines_on_a_partition_are_in_the_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "w1.log").write_text(
        "2000 INFO chaos.worker: _place images/0@24\n2001 INFO chaos.worker: _place images/01@3 prompts/0@1\nno line\n"
    )
    (tmp_path / "w2.log").write_text("1000 INFO chaos.worker: transaction of 24 records to images/0@24: committed\n")
    assert worker_traces(tmp_path.glob("*.log"), TOPIC, 0) == [
        Trace(1000, "w2", "transaction of 24 records to images/0@24: committed"),
        Trace(2000, "w1", "_place images/0@24"),
    ]


def test_the_groups_log_tells_of_offsets_and_of_the_ends_of_their_transactions_by_replica() -> None:
    begun = BATCH.format(producer=7, at_ms=1000) + OFFSET.format(partition=0, offset=24)
    ended = BATCH.format(producer=7, at_ms=1005) + MARKER
    ended += BATCH.format(producer=7, at_ms=1008) + OFFSET.format(partition=1, offset=3)
    ended += BATCH.format(producer=7, at_ms=1009) + MARKER
    others = BATCH.format(producer=8, at_ms=1006) + OFFSET.format(partition=1, offset=9) + MARKER
    dumps = {"node-1": begun + ended + others, "node-2": begun}
    assert group_traces(dumps, TOPIC, 0) == [
        Trace(1000, "node-1 node-2", "offset 24 by producer 7 epoch 0"),
        Trace(1005, "node-1", "COMMIT by producer 7 epoch 0"),
    ]
