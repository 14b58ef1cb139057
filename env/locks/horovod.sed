# For horovod/tensorflow/keras/{__init__,callbacks}.py. They work on tf.keras, but take its backend from the package
# `keras`, which is Keras 3 now, where tf.keras may be Keras 2.
s/^    from keras import backend as K$/    K = keras.backend/
