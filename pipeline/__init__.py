"""How a batch is made and run: settings, planning, sessions, tasks, models, metrics. Knows nothing of Kafka."""
