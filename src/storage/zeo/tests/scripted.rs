//! With a peer that says what a test tells it to.
