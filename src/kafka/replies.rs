//! The reply reader: one thread that reads the reply partitions and posts batches to the shards' mailboxes.
