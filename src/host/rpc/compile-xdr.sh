#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: compile-xdr.sh wire.x wire.h wire_xdr.c: rpcgen names the header by the path it was given, so it runs where the copy is.
set -eu
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp "$1" "$work/wire.x"
(cd "$work" && rpcgen -N -M -C -h wire.x >wire.h && rpcgen -N -M -C -c wire.x >wire_xdr.c)
cp "$work/wire.h" "$2"
cp "$work/wire_xdr.c" "$3"
