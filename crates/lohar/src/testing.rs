//! What the tests of several modules need.
