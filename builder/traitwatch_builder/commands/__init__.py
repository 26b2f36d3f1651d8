"""The commands of the builder, one module each; they parse options and call the steps."""
