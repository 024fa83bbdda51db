"""A kind cluster for the end-to-end tests: how it is made, asked, disturbed and given load. No test lives here."""
