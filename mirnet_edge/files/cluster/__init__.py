"""Files restored by workers on a Ray cluster. Ray places, watches and reaches them; here is what
they do, and in which order. Only paths and figures travel, never pixels."""
