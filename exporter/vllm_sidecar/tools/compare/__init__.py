"""The command `compare`: two or more servers, or one server at two times, and how sure the differences are."""
