//! A real Redis server.
