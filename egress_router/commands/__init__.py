"""The commands of the program: what the command line names, and what each of them does."""
