"""How a batch is made and run: settings, planning, sessions, tasks, models, metrics. Knows nothing of Kafka."""

import os

# ONNX Runtime from 1.29 on reports every session to its makers, and keeps a device id in the user's cache, unless this
# is set before it is imported. Whoever wants that sets ORT_DISABLE_TELEMETRY=0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
