"""A real federation on Flower: processes, keys, rounds. `federated-learning coordinator` and `hospital` run it.

Flower carries messages and proves who sends them. What is executed is the code installed on each machine: neither side
runs the application bundle that Flower distributes, so neither can be made to execute what another sends.
"""
