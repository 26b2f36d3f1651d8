"""What people look at. Talks to the server over HTTP alone."""
