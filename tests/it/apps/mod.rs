//! Real applications and the tools of ZODB's world against the daemon, as sites use them.

mod zope;
