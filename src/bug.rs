//! Mistakes that a test makes on purpose, to see that the simulation finds them.
//!
//! `bug!(Name)` is false in everything that is built to be used. The list is in `tests/simulation/bug.rs`.

#[cfg(not(test))]
macro_rules! bug {
    ($name:ident) => {
        false
    };
}

#[cfg(test)]
macro_rules! bug {
    ($name:ident) => {
        crate::simulation::is_made(crate::simulation::Bug::$name)
    };
}
