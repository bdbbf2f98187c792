//! Real applications and the tools of ZODB's world against the daemon, as sites use them.

mod backups;
mod conversion;
mod file_tools;
mod hot;
mod zeo_tools;
mod zope;
