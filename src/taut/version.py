"""The version of taut, as files and records state it."""

VERSION = "0.1.0"
