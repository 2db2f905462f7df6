"""What is optimised: parameterizations of images, their spectrum, color and seeds."""
