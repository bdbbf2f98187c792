//! A storage in memory, for tests and as the model of the others.
