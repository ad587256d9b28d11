"""TensorFlow's C++ core through the C API of the installed wheel, by ctypes: no Python of TensorFlow, up in half a second."""
