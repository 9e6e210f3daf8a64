//! librdkafka properties of each client, each with its reason.
