"""The linear steer of the output embeddings: the value is `steerlens.values.steer.Steer`."""
