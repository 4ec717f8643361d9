"""Names of the tensors beside the image through which a graph and its runtime exchange pooled
vectors (see `mirnet_edge.graph.pooling`)."""

ROWS, COLUMNS, OWN, STATISTIC = "rows", "columns", "own", "statistic"
GATHERED, LOG_MASS = "gathered", "log_mass"
