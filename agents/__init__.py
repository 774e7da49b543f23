"""How Kafka feeds the pipeline: the Faust app, the ledger, the publisher, clients and the embedded broker."""
