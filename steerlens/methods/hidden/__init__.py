"""The steer's linear map inside the model: at any layer, on any stream of states."""
