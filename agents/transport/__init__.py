"""A Faust transport on confluent-kafka: whole fetched batches go to agents that iterate over batches."""
