//! poll → handle → produce the reply → commit.
