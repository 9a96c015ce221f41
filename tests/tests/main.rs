//! The end-to-end tests, by topic.
