//! The commands, one file each: the arguments, what is done, and what is shown.

mod changes;
pub mod check_config;
pub mod completions;
pub mod details;
pub mod disable;
pub mod events;
pub mod fg;
pub mod init;
mod leaving;
pub mod logtail;
pub mod man;
pub mod pack;
pub mod recipe;
pub mod recover;
pub mod reload;
pub mod reopen;
pub mod restart;
mod running;
pub mod show;
pub mod start;
pub mod status;
pub mod stop;
pub mod uninstall;
pub mod update;
pub mod wait;
mod writing;
