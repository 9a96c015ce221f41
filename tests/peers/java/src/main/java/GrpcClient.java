import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;

/**
 * A gRPC client on grpc-java. Messages are plain text, so nothing has to be generated.
 *
 * <p>GrpcClient TARGET CASE[:ARGUMENT]... makes the calls one after the other over one channel, and prints
 * for each `CASE CODE` and what it got: the message, or how many.
 */
public final class GrpcClient {
  private static final String SERVICE = "outrider.test.Echo";

  private static final MethodDescriptor.Marshaller<String> TEXT =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(String value) {
          return new ByteArrayInputStream(value.getBytes(StandardCharsets.UTF_8));
        }

        @Override
        public String parse(InputStream stream) {
          try {
            return new String(stream.readAllBytes(), StandardCharsets.UTF_8);
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        }
      };

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    for (int index = 1; index < arguments.length; index++) {
      String[] parts = arguments[index].split(":", 2);
      String argument = parts.length > 1 ? parts[1] : "";
      try {
        System.out.println(parts[0] + " 0 " + run(channel, parts[0], argument));
      } catch (StatusRuntimeException error) {
        var status = error.getStatus();
        System.out.println(
            parts[0] + " " + status.getCode().value() + " " + status.getDescription());
      }
    }
    channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
  }

  private static String run(ManagedChannel channel, String name, String argument) throws Exception {
    switch (name) {
      case "unary":
        return ClientCalls.blockingUnaryCall(call(channel, MethodType.UNARY, "Unary"), argument);
      case "fail":
        return ClientCalls.blockingUnaryCall(call(channel, MethodType.UNARY, "Fail"), argument);
      case "server_stream":
        Iterator<String> items =
            ClientCalls.blockingServerStreamingCall(
                call(channel, MethodType.SERVER_STREAMING, "ServerStream"), argument);
        int count = 0;
        for (; items.hasNext(); count++) {
          items.next();
        }
        return Integer.toString(count);
      case "bidi":
        return bidi(call(channel, MethodType.BIDI_STREAMING, "Bidi"), Integer.parseInt(argument));
      default:
        throw new IllegalArgumentException("no case " + name);
    }
  }

  /** Each request is sent only after the answer to the one before. */
  private static String bidi(ClientCall<String, String> call, int turns) throws Exception {
    var answers = new java.util.concurrent.LinkedBlockingQueue<String>();
    StreamObserver<String> requests =
        ClientCalls.asyncBidiStreamingCall(
            call,
            new StreamObserver<>() {
              @Override
              public void onNext(String answer) {
                answers.add(answer);
              }

              @Override
              public void onError(Throwable error) {
                answers.add("failed: " + error);
              }

              @Override
              public void onCompleted() {
                answers.add("completed");
              }
            });
    String last = "";
    for (int turn = 0; turn < turns; turn++) {
      requests.onNext(Integer.toString(turn));
      last = answers.poll(20, TimeUnit.SECONDS);
    }
    requests.onCompleted();
    return last + ", " + answers.poll(20, TimeUnit.SECONDS);
  }

  private static ClientCall<String, String> call(
      ManagedChannel channel, MethodType type, String method) {
    var descriptor =
        MethodDescriptor.<String, String>newBuilder(TEXT, TEXT)
            .setType(type)
            .setFullMethodName(SERVICE + "/" + method)
            .build();
    return channel.newCall(descriptor, CallOptions.DEFAULT.withDeadlineAfter(20, TimeUnit.SECONDS));
  }
}
