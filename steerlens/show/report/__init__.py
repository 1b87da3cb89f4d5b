"""The page of `steerlens report`."""
