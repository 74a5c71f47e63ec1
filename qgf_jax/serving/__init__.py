"""A policy that acts for others over a websocket."""
