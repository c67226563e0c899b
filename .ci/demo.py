"""Checks the JSON that `tailrace demo --json` prints: the keys are there, and the numbers agree with each other."""

import json
import sys

NUMBERS = ("produced", "telemetry_rows", "predictions", "events", "dead_letters", "records_per_second", "false_alarm_rate")
TEXTS = ("clickhouse_version", "onnxruntime_version", "provider")

with open(sys.argv[1], encoding="utf-8") as file:
    demo = json.load(file)  # one object and nothing beside it

faults = []


def want(holds, what):
    if not holds:
        faults.append("want " + what)


for key in NUMBERS:
    number = demo.get(key)
    want(isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0, f"{key}: a number, got {number!r}")
for key in TEXTS:
    want(isinstance(demo.get(key), str) and demo[key], f"{key}: a text, got {demo.get(key)!r}")
latency, detection = demo.get("latency_ms"), demo.get("detection")
want(isinstance(latency, dict) and {"p50", "p99"} <= latency.keys(), f"latency_ms: p50 and p99, got {latency!r}")
want(isinstance(detection, dict) and detection, f"detection: a rate for each fault, got {detection!r}")
second = demo.get("autoencoder")
want(
    isinstance(second, dict) and isinstance(detection, dict) and second.get("detection", {}).keys() == detection.keys(),
    f"autoencoder: a detection for the same faults, got {second!r}",
)
third = demo.get("classifier")  # not there in a program built without a C compiler, which cannot train nets
want(
    "classifier" not in demo
    and demo.get("onnxruntime_version") == "none"
    or isinstance(third, dict)
    and isinstance(detection, dict)
    # Faults 3 and 9 can hardly be told from normal operation; the classifier does not know them.
    and third.get("accuracy", {}).keys() == detection.keys() - {"3", "9"} | {"normal"}
    and {"macro", "validation_loss"} <= third.keys(),
    f"classifier: an accuracy for normal and the faults but 3 and 9, got {third!r}",
)

if not faults:
    want(demo["produced"] > 0, "produced: more than 0")
    want(demo["dead_letters"] == 0, f"dead_letters: 0, got {demo['dead_letters']}")
    want(
        demo["produced"] == demo["telemetry_rows"] + demo["dead_letters"],
        f"produced == telemetry_rows + dead_letters, got {demo['produced']}, {demo['telemetry_rows']}, {demo['dead_letters']}",
    )
    # A window is one grid row and every row of a run has its 52 tags: floor((rows - 1)/1) + 1 windows for each asset.
    want(
        demo["predictions"] * 52 == demo["produced"],
        f"a score for each of {demo['produced']} / 52 grid rows, got {demo['predictions']}",
    )
    want(demo["predictions"] > 0 and demo["events"] > 0, f"predictions and events, got {demo['predictions']}, {demo['events']}")
    want(demo["events"] <= demo["predictions"], "no more events than predictions")
    want(0 < latency["p50"] <= latency["p99"], f"0 < p50 <= p99, got {latency}")
    rates = [*detection.values(), demo["false_alarm_rate"], *second["detection"].values(), second["false_alarm_rate"]]
    want(all(0 <= rate <= 1 for rate in rates), f"rates from 0 to 1, got {rates}")
    if third is not None:
        shares = third["accuracy"].values()
        want(all(0 <= share <= 1 for share in shares), f"shares from 0 to 1, got {third}")
        want(abs(third["macro"] - sum(shares) / len(shares)) < 1e-3, f"macro: the mean of accuracy, got {third}")
        want(third["macro"] > 1 / len(shares), f"a classifier that is better than chance, got {third}")
        want(third["validation_loss"] > 0, f"validation_loss: more than 0, got {third}")
    # Without any skill a detector flags faulty windows as often as normal ones.
    want(max(detection.values()) > demo["false_alarm_rate"], "a fault that is detected more often than normal operation")

for fault in faults:
    print("demo:", fault, file=sys.stderr)
if faults:
    sys.exit(1)
print(json.dumps(demo))
