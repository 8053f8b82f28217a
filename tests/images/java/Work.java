import java.io.IOException;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.LongStream;

/** What Java agents do all day, one line of standard output for each thing done. */
public final class Work {
    private static final Path RUNTIME = Path.of("/agent/runtime");

    private static void said(String name, Object answer) {
        System.out.println(name + ": " + answer);
    }

    private static long sumOfAll(ExecutorService pool, int tasks, Callable<Long> task) throws Exception {
        try (pool) {
            List<Future<Long>> futures = new ArrayList<>();
            for (int i = 0; i < tasks; i++) {
                futures.add(pool.submit(task));
            }
            long sum = 0;
            for (Future<Long> future : futures) {
                sum += future.get();
            }
            return sum;
        }
    }

    private static long virtualThreads() throws Exception {
        return sumOfAll(Executors.newVirtualThreadPerTaskExecutor(), 2000, () -> {
            Thread.sleep(10);
            return 1L;
        });
    }

    private static String loopback() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            Thread.ofVirtual().start(() -> {
                try (Socket peer = server.accept()) {
                    peer.getInputStream().transferTo(peer.getOutputStream());
                } catch (IOException error) {
                    throw new IllegalStateException(error);
                }
            });
            try (Socket client = new Socket(server.getInetAddress(), server.getLocalPort())) {
                client.getOutputStream().write("echo".getBytes());
                client.shutdownOutput();
                return new String(client.getInputStream().readAllBytes());
            }
        }
    }

    private static long mapped() throws IOException {
        Path file = RUNTIME.resolve("mapped");
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            ByteBuffer buffer = channel.map(FileChannel.MapMode.READ_WRITE, 0, 8192);
            buffer.putLong(4096, 42);
        }
        return ByteBuffer.wrap(Files.readAllBytes(file)).getLong(4096);
    }

    /** Another JVM with a collector of its own: it makes garbage until that collector has run. */
    private static String collector(String option) throws Exception {
        Process child = new ProcessBuilder(ProcessHandle.current().info().command().orElseThrow(),
                "-XX:+" + option, "-Xmx192m", "-cp", System.getProperty("java.class.path"), "Work", "garbage")
                .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        String output = new String(child.getInputStream().readAllBytes()).trim();
        return output + ", exit " + child.waitFor();
    }

    private static long collections() {
        return ManagementFactory.getGarbageCollectorMXBeans().stream()
                .mapToLong(GarbageCollectorMXBean::getCollectionCount).sum();
    }

    private static String garbage() {
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < 1000; i++) {
            byte[] block = new byte[1 << 20];
            if (i % 50 == 0) {
                kept.add(block);
            }
        }
        System.gc();
        return kept.size() + " kept, collected " + (collections() > 0);
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0) {
            System.out.println(garbage());
            return;
        }
        said("threads", sumOfAll(Executors.newFixedThreadPool(32), 1000, () -> LongStream.range(0, 1000).sum()));
        said("parallel stream", LongStream.range(0, 1_000_000).parallel().filter(it -> it % 3 == 0).count());
        said("virtual threads", virtualThreads());
        said("loopback", loopback());
        said("mapped file", mapped());
        for (String option : List.of("UseSerialGC", "UseParallelGC", "UseG1GC", "UseShenandoahGC", "UseZGC")) {
            said(option, collector(option));
        }
    }
}
