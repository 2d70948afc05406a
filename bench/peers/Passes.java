import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;

/**
 * The passes of a peer: the same job several times in one JVM.
 *
 * Responsible for their begin and end, which whoever measures decides, and for saying on standard output when a pass
 * begins to read. Must never know how a peer counts.
 *
 * Arguments: BOOTSTRAP INPUT DIRECTORY OUTPUT…, one output topic for each pass; its name is also the name of the pass's
 * group. Pass N begins when the file DIRECTORY/begin-N is there and is ended when DIRECTORY/over-N is. A peer says
 * "pass N reads MS" (milliseconds since the epoch) once or several times, the last time before it reads its first
 * record, and "pass N over" when it has let go of everything.
 */
final class Passes {
    /** Long against a look at a directory, short against a pass. */
    private static final long LOOK_MS = 5;

    /** What a pass works on. */
    record Pass(int number, String bootstrap, String input, String output, Path directory) {
        /** Says that the pass is ready to read. */
        void reads() {
            System.out.println("pass " + number + " reads " + System.currentTimeMillis());
        }

        /** A directory for state of this pass, which is not made here. */
        Path state() {
            return directory.resolve("state-" + number);
        }
    }

    /** Starts the job of a pass; closing what it gives ends the job. */
    interface Job {
        AutoCloseable start(Pass pass) throws Exception;
    }

    /** Runs one pass after another; ends the program. */
    static void run(String[] args, Job job) {
        try {
            if (args.length < 4) {
                throw new IllegalArgumentException("arguments: BOOTSTRAP INPUT DIRECTORY OUTPUT…");
            }
            Path directory = Path.of(args[2]);
            List<String> outputs = Arrays.asList(args).subList(3, args.length);
            for (int number = 0; number < outputs.size(); number++) {
                await(directory.resolve("begin-" + number));
                Pass pass = new Pass(number, args[0], args[1], outputs.get(number), directory);
                AutoCloseable running = job.start(pass);
                try {
                    await(directory.resolve("over-" + number));
                } finally {
                    running.close();
                }
                System.out.println("pass " + number + " over");
            }
        } catch (Exception failed) {
            failed.printStackTrace();
            System.exit(1);
        }
        // Threads of the peer that still run are of no interest.
        System.exit(0);
    }

    private static void await(Path file) throws InterruptedException {
        while (!Files.exists(file)) {
            Thread.sleep(LOOK_MS);
        }
    }

    private Passes() {}
}
