"""What travels between Kafka, the pipeline and the callers: messages and codecs. Imports no other room."""
