#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds the server as any project builds its program; the compiler may be named in CC.
set -e
for source in server idle request shop; do
	${CC:-cc} -O2 -g -pthread -c -o $source.o $source.c
done
${CC:-cc} -pthread -o server server.o idle.o request.o shop.o
