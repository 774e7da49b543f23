"""INT8 and FP16 forms of a graph."""
