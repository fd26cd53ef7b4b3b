"""The engine `lab`: many small runs as lanes of one program, sampling, verifier and update included."""
