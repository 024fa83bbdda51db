"""A cluster's servers for tests: where their binaries come from, and how they run on loopback. No test lives here."""
