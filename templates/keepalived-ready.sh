#!/bin/sh
# Succeeds while the daemon serves clients: what keepalived asks. Written by `zeoraidctl init`.
# `zeoraidctl status` itself also fails where a member is out, and that is no reason to move the address.
{{shell program}} -C {{shell config.home}} status -o json 2>/dev/null | grep -q '"ready": true'
